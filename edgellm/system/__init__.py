"""Calls that differ between operating systems: files, locks and limits of a process."""
