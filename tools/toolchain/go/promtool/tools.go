//go:build tools

// Package tools keeps the requirement on promtool in go.mod: `go mod tidy` drops what no file imports.
package tools

import _ "github.com/prometheus/prometheus/cmd/promtool"
