"""``quantgate doctor``: what is wrong with an installation and its project, and what mends it.

Each module examines one thing and gives a :class:`~pytest_quantgate.cli.doctor.findings.Section`;
:mod:`pytest_quantgate.cli.doctor.examination` has them in order. Nothing here may hang, raise for
what it finds, or write to the project.
"""
