"""Service envelopes: they translate a platform's requests and answers around a handler.

An envelope is chosen by its module's name (contract.md section 9.6).
"""
