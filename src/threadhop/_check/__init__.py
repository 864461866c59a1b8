"""The checker: what goes wrong in blocks, found in the source. Nothing is run or imported.

``_command.py`` reads files, ``_report.py`` heeds ``# noqa``, ``_rules.py`` has a small function for
each rule. These look at the nodes of ``_walk.py``, which knows where each runs, and ask
``_names.py`` what a name stands for, which asks ``_scopes.py`` what binds it.
"""
