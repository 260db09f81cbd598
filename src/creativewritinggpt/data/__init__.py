"""From files and named sources to packed rows of tokens.

``sources`` yield :class:`~creativewritinggpt.data.document.Document`, ``cleaning`` mends their
text, ``splits`` holds some out without leaks, ``tokens`` turns the rest into ids once, ``packing``
lays the ids out in rows. Nothing here imports torch.
"""
