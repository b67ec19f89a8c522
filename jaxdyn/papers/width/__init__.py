"""Papers of this subject: wide networks."""
