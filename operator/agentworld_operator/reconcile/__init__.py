"""Reads, plans and acts for one world at a time; each step follows from what is there, not from what was done."""
