from src.engine.interrupts import ends_on_interrupt

if __name__ == "__main__":
    with ends_on_interrupt():
        from src.cli import main  # within: it takes seconds

        main()
