"""Papers of this subject: saddle-to-saddle dynamics."""
