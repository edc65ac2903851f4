"""`python -m phantrol`, which launchers of several processes need: torchrun --nproc-per-node 2 -m phantrol train ..."""

from phantrol.cli import main

if __name__ == "__main__":
    main()
