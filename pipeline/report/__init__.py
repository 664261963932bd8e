"""What people see: tables and sentences, the views of the verbs, and live progress. The only importer of rich
beside the command line.
"""
