{{/* The front end's configuration: server/config.h. */}}
{{- define "patchflow.config" -}}
server:
  listen: 0.0.0.0:{{ .Values.frontend.port }}
  metrics: 0.0.0.0:{{ .Values.frontend.metricsPort }}
  health: 0.0.0.0:{{ .Values.frontend.healthPort }}
  admin: 127.0.0.1:50053
groups:
{{- range (include "patchflow.groups" . | fromYaml).groups }}
  - name: {{ .id }}
    model_name: {{ .modelName }}
    workers: {{ include "patchflow.workers" (dict "root" $ "group" .) }}
    {{- if gt (int .batchSize) 1 }}
    {{- if gt (int .nodes) 1 }}{{ fail (printf "groups: %s: batchSize is for groups of one node" .id) }}{{ end }}
    batching: true
    batch_size: {{ int .batchSize }}
    {{- end }}
{{- end }}
drain:
  delay: {{ .Values.frontend.drain.delaySeconds }}s
  timeout: {{ .Values.frontend.drain.timeoutSeconds }}s
security:
  workers:
    {{- if include "patchflow.workersTls" . }}
    certificate: /etc/patchflow-workers/tls.crt
    key: /etc/patchflow-workers/tls.key
    ca: /etc/patchflow-workers/ca.crt
    {{- else }}
    plaintext: true
    {{- end }}
{{- with .Values.frontend.security }}
{{- if or .tls .clientCa .tokens }}
{{- if not .tls }}{{ fail "frontend.security: clientCa and tokens need tls" }}{{ end }}
  tls:
    certificate: /etc/patchflow-tls/tls.crt
    key: /etc/patchflow-tls/tls.key
    {{- if .clientCa }}
    client_ca: /etc/patchflow-client-ca/ca.crt
    {{- end }}
  {{- if .tokens }}
  tokens: /etc/patchflow-tokens/tokens.yaml
  {{- end }}
{{- end }}
{{- end }}
{{- with .Values.frontend.state }}
store: {directory: /var/lib/patchflow/store, max_bytes: {{ int64 .storeBytes }}, max_age: {{ int64 .storeAgeSeconds }}s}
audit: {file: /var/lib/patchflow/audit.jsonl, max_bytes: {{ int64 .auditBytes }}{{ if .auditSync }}, sync: true{{ end }}}
{{- end }}
{{- with .Values.frontend.limits }}
limits: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.frontend.supervision }}
supervision: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.frontend.log }}
log: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.frontend.tracing }}
tracing: {{- toYaml . | nindent 2 }}
{{- end }}
{{ end }}
