"""Every figure the project quotes, measured beside the limit of the same machine in the same run.

``python -m bench --help`` says how to run it; nothing here is part of the installed package.
"""
