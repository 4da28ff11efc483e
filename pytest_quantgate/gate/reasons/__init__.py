"""What judgements rest on: facts with their figures, and the words for each in this room alone.

A fact is a frozen dataclass, or a member of an enumeration where it has no figures; judges make
facts, and nothing decides by their words.
"""
