{{- /* Name of the objects. */ -}}
{{- define "moe.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 27 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "moe.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "moe.labels" -}}
{{ include "moe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "moe.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "moe.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "moe.image" -}}
{{- with .Values.image -}}
{{- $repository := ternary .repository (printf "%s/%s" .registry .repository) (empty .registry) -}}
{{- ternary (printf "%s:%s" $repository (.tag | default $.Chart.AppVersion)) (printf "%s@%s" $repository .digest) (empty .digest) -}}
{{- end -}}
{{- end -}}

{{- /* Name of the webhook's Service; the operator expects it. */ -}}
{{- define "moe.webhook" -}}
moe-operator-webhook
{{- end -}}
