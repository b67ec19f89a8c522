"""Papers of this subject: linear networks and exact solutions."""
