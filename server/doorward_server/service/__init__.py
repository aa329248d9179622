"""What Doorward does: issuing, authorizing, keeping the directory and the keyspaces. No gRPC, no SQL.

Every method that a caller can reach takes the `Caller` and asks the `Guard` first; what changes something hands the
store the `Actor` that only the guard makes.
"""
