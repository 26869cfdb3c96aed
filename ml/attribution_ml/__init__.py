"""Trains two models: fraud of a conversion, and the lifetime value of a customer."""
