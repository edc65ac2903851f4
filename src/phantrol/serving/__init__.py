"""Serving: the OpenAI protocol over an Engine, and the page."""
