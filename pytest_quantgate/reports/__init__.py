"""Reports: a run record, and everything that is made from it alone."""
