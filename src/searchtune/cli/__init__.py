"""The command line: one file a noun, thin, with heavy imports inside the commands.

Results go to stdout, everything else to stderr.
"""
