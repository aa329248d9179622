"""What Doorward knows without asking anybody: key text, keys and their states, policy, and the decision.

Standard library only, no I/O, no clock, no randomness: time and entropy are arguments. Instants are whole
microseconds since 1970-01-01T00:00:00Z (`Instant`), so that every store orders and compares them alike.
"""
