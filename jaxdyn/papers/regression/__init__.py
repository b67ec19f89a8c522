"""Papers of this subject: regression in high dimension."""
