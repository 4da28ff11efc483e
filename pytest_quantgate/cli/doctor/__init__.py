"""``quantgate doctor``: what is wrong with an installation and its project, and how to fix it.

Each module examines one thing and fills a :class:`~pytest_quantgate.cli.doctor.findings.Section`;
:mod:`pytest_quantgate.cli.doctor.examination` has them in order. Nothing here may hang, raise for
what it finds, or write to the project.
"""
