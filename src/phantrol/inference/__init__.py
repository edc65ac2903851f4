"""Conversations in, answers out."""
