"""Pictures of the analyses, by kind: coloured words with bars, matrices, curves."""
