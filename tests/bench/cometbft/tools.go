//go:build tools

// Package cometbft names the programs of the peer that the benchmark of consensus builds.
package cometbft

import (
	_ "github.com/cometbft/cometbft/cmd/cometbft"
	_ "github.com/cometbft/cometbft/test/loadtime/cmd/load"
)
