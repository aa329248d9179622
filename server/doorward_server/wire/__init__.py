"""gRPC: parse, call, convert. Nothing in here decides anything."""
