"""Log-likelihoods of documents: windows, batched passes, perplexity, bootstrap intervals."""
