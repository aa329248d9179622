"""The server of Doorward. Imports point one way: wire → service → {store → core, core}.

core      pure: key text, keys and their states, policy, the decision
store     the only Peewee: SQLite and PostgreSQL, transactions, change log, audit chain
service   what Doorward does: issuing, authorizing, directory, keyspaces; no gRPC, no SQL
wire      gRPC: parse, call, convert; the one error table
app       the composition root;  config, logs, __main__: the outside world
"""
