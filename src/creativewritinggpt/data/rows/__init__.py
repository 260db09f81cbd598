"""From documents to packed rows of token ids."""
