"""The commands: for each, its flags and what it does with them.

Heavy imports are inside, so that --help and errors are quick.
"""
