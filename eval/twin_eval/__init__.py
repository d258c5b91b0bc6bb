"""Seeded, resumable evaluation of policies, and its statistics."""
