"""`python -m searchtune`; `accelerate launch --multi_gpu --num_processes N -m searchtune` for several processes."""

from searchtune.cli.main import main

if __name__ == "__main__":
    main()
