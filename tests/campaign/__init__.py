"""A campaign of faults: kills, full disks, damaged files, hostile input; ``make campaign``."""
