"""Papers of this subject: descent in discrete steps."""
