//go:build tools

// Package tools keeps the requirement on kustomize in go.mod: `go mod tidy` drops what no file imports.
package tools

import _ "sigs.k8s.io/kustomize/kustomize/v5"
