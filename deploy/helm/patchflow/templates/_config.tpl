{{/* The front end's configuration: server/config.h. */}}
{{- define "patchflow.config" -}}
server:
  listen: 0.0.0.0:{{ .Values.frontend.port }}
  metrics: 0.0.0.0:{{ .Values.frontend.metricsPort }}
groups:
{{- range (include "patchflow.groups" . | fromYaml).groups }}
  - name: {{ .id }}
    model_name: {{ .modelName }}
    workers: {{ include "patchflow.workers" (dict "root" $ "group" .) }}
{{- end }}
drain:
  delay: {{ .Values.frontend.drain.delaySeconds }}s
  timeout: {{ .Values.frontend.drain.timeoutSeconds }}s
{{- with .Values.frontend.limits }}
limits: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.frontend.supervision }}
supervision: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.frontend.log }}
log: {{- toYaml . | nindent 2 }}
{{- end }}
{{ end }}
