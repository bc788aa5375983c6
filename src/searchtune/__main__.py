"""`python -m searchtune`, and `torchrun --nproc_per_node N -m searchtune` for several processes."""

from searchtune.cli.main import main

if __name__ == "__main__":
    main()
