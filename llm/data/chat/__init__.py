"""Conversations: read, put through a template, and encoded as samples whose answers are supervised."""
