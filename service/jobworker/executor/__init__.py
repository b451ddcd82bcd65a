"""The executor: the parent of every job and nothing else. Standard library only, Python 3.9 and later; it imports
nothing outside this folder, so that one zipapp beside any python3 is all it takes.
"""
