"""Files that a scan has to judge, built in code: hostile ones with harmless markers, and benign.

Nothing here is ever unpickled, imported or run.
"""
