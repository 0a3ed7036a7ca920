"""A real local Kubernetes with neither container engine nor registry; where a Docker daemon answers, the same commands drive kind.

Standard library only, so that it runs before anything is installed. Layers, upper ones import lower ones:

    cli                                     what the user types
    local  kind                             the two providers, one interface (provider)
    control_plane  node  addons  images     what a local cluster consists of
    binaries  debian  pki  cgroups  slots   how each part is made
    settings  processes  api  commands  progress
"""
