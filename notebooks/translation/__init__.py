"""How the Chinese course is held to the English one; `python notebooks/translate.py` is the command.

code.py replaces the strings of code cells, outputs.py and figures.py those of what the cells printed and drew, and
sections.py finds the parts of pages and of the quiz.
"""
