"""Papers of this subject: learning online."""
