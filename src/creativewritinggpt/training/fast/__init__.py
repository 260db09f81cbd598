"""The fast way through a model whose base is frozen, written out instead of recorded.

transformers' own modules stay the plain path, and the tests hold the two together. What is done
differently here:

- documents are laid end to end without padding, and attention runs document by document;
- each half of a block is one function with its backward pass written out: it keeps little, computes
  norms and activations again instead of keeping them, and stops at the lowest adapter;
- projections with the same input are one matrix product, their adapters' first matrices another;
- the base's weights are kept in the format that this machine multiplies fastest.

It knows blocks of GPT-2's and Llama's making (Qwen's too) on a CPU, with plain LoRA adapters; any
other model, device or method takes the plain path.
"""
