"""How many key servers a fleet of nodes needs: a load generator, and a simulation with what it measured."""
