"""`python -m searchtune`, and `accelerate launch -m searchtune` for several devices."""

from searchtune.cli.main import main

if __name__ == "__main__":
    main()
