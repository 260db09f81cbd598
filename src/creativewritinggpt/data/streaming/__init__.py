"""A corpus larger than memory or disk: opened, divided into lanes, given out as rows."""
