"""Papers of this subject: learning rules that are no gradient."""
