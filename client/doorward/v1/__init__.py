"""The generated code of `doorward.v1`. Never edited: `make protos` writes it from protos/doorward/v1."""
