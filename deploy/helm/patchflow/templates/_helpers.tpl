{{- define "patchflow.name" -}}
{{- if contains "patchflow" .Release.Name }}{{ .Release.Name | trunc 28 | trimSuffix "-" }}{{ else }}{{ printf "%s-patchflow" .Release.Name | trunc 28 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "patchflow.selector" -}}
app.kubernetes.io/name: patchflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The selector's labels and the version. */}}
{{- define "patchflow.labels" -}}
{{ include "patchflow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* (dict "root" $ "image" .Values.image.worker) */}}
{{- define "patchflow.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "patchflow.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "patchflow.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/*
Every group that there is, as YAML under "groups": each entry of .Values.groups, `replicas` and `standby` times, with "id"
(its name) and "standby" (0: always there; else its place in the line of standby groups).
*/}}
{{- define "patchflow.groups" -}}
{{- $all := list }}
{{- $taken := dict }}
{{- range $group := .Values.groups }}
{{- range $i := until (int $group.replicas) }}
{{- $id := ternary $group.name (printf "%s-%d" $group.name (add $i 1)) (eq $i 0) }}
{{- $all = append $all (merge (dict "id" $id "standbyPlace" 0) $group) }}
{{- end }}
{{- range $i := until (int $group.standby) }}
{{- $id := printf "%s-standby-%d" $group.name (add $i 1) }}
{{- $all = append $all (merge (dict "id" $id "standbyPlace" (add $i 1)) $group) }}
{{- end }}
{{- end }}
{{- range $all }}
{{- if has .id (list "headless" "frontend" "workers" "groups") }}{{ fail (printf "groups: %q is the name of another object" .id) }}{{ end }}
{{- if hasKey $taken .id }}{{ fail (printf "groups: two groups would be called %q" .id) }}{{ end }}
{{- $_ := set $taken .id true }}
{{- end }}
{{- dict "groups" $all | toYaml }}
{{- end }}

{{/* The addresses of a group's workers: (dict "root" $ "group" $group) */}}
{{- define "patchflow.workers" -}}
{{- $name := printf "%s-%s" (include "patchflow.name" .root) .group.id }}
{{- $port := int .root.Values.worker.port }}
{{- if eq (int .group.nodes) 1 }}
{{- list (printf "%s:%d" $name $port) | toJson }}
{{- else }}
{{- $addresses := list (printf "%s-0.%s:%d" $name $name $port) }}
{{- range $node := untilStep 1 (int .group.nodes) 1 }}
{{- $addresses = append $addresses (printf "%s-0-%d.%s:%d" $name $node $name $port) }}
{{- end }}
{{- $addresses | toJson }}
{{- end }}
{{- end }}
