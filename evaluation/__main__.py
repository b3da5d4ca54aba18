"""python -m evaluation: the table (table.py)."""

from evaluation.table import main

if __name__ == "__main__":
    main()
