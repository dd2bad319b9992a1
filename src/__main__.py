import sys

from src.engine import threads
from src.engine.interrupts import ends_on_interrupt

if __name__ == "__main__":
    with ends_on_interrupt():
        from src.commands.first import answer

        answer(sys.argv[1:])
        threads.watch()
        from src.cli import main  # within, and after that: it takes seconds

        main()
