"""A real local Kubernetes with neither container engine nor registry, or the same commands on kind where Docker is.

Standard library only, so that it runs before anything is installed. Layers, upper ones import lower ones:

    cli                                       what the user types
    local, kind                               the two providers of one interface (provider)
    addons, node, control_plane, images       what a local cluster consists of
    binaries, debian, pki, cgroups, slots     how each part is made
    processes, api, settings, commands, progress
"""
