"""The studio: a page on loopback to write, train, judge and explain in."""
